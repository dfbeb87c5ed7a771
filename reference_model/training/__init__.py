"""Training of the small CDM that ships with the package, on rendered rooms: ``python -m reference_model.training``."""
