"""The objective: named terms, each the log-likelihood of one kind of (pseudo-)observation. Sees tensors, knows no trainer.

terms.py        the terms and what they read (`Rollout`)
motion_term.py  the term that motion is learned from, for models in which things move
teacher_terms.py  the terms of pseudo-observations; their noise is in teacher_noise.py, what they read in observations.py
elbo.py         the bound they are parts of, and the KL of posterior to prior
photometric.py  how far apart two images are, for warps
"""

from embodied_liftwm.objectives.motion_term import MotionTerm
from embodied_liftwm.objectives.teacher_terms import TEACHER_TERMS
from embodied_liftwm.objectives.terms import TERMS

TERMS[MotionTerm.name] = MotionTerm
TERMS.update(TEACHER_TERMS)
