"""The schedulers of diffusers: set_timesteps, scale_model_input, step.

    playing.py   a scheduler as a sampler: its loop, its normals, its times
    claims/      what each class is by its options, one file for each group of classes
    options.py   what is tried of what a class exposes
"""
