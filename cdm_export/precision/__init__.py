"""Precision lives in the graph: which module computes in which type, decided from measured ranges, and checked.

``range_scan.py`` measures, ``plan.py`` decides, ``typed_modules.py`` types the network, ``rounded.py`` runs it with
arithmetic that overflows, ``onnx/`` writes the graphs and counts what came out.
"""
