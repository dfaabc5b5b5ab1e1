"""A fixed budget of relief patches, each of texels with colour, latents and evidence: the memory of `base`."""
