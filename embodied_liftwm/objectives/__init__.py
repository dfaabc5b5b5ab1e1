"""The objective: named terms, each the log-likelihood of one kind of (pseudo-)observation. Sees tensors, knows no trainer.

terms.py        the terms and what they read (`Rollout`)
elbo.py         the bound they are parts of, and the KL of posterior to prior
photometric.py  how far apart two images are, for warps
"""
