"""latent/mla."""
