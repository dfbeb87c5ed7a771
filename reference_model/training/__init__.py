"""Training of the small CDM that ships with the package, on rendered rooms.

Run it with ``python -m cdm_export.reference_model.training``.
"""
