"""Exact rewrites of parts that several families share; a family lists those that it has the parts for."""
