"""A Core ML package executed operation by operation, on any machine: what the saved file means, by its own account.

``program.py`` reads the saved package, ``arithmetic.py`` says how half is computed, the operations lie by topic
(``elementwise``, ``products``, ``normalize``, ``pooling``, ``layout``, ``resize``, ``weights``, ``activations``),
``execute.py`` executes, ``session.py`` opens it as a runtime, and ``runtime.py`` is the backend ``coreml-reference``.

PyTorch is the arithmetic. Inputs and results of every operation are rounded to the type that the program gives them,
sums run in FP32 inside an operation; what a device's kernel does inside an operation is not told by this.
"""
