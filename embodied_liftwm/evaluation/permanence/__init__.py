"""The permanence benchmark: frozen manifests, controls, violation of expectation, and changes made while nobody looks."""
