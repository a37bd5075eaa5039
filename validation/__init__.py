"""The identities of diffusion theory, checked numerically, and the ledger of the source items they cover."""
