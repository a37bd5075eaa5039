"""Side-by-side timings against other libraries: `refdiff bench`."""
