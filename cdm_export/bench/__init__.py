"""How fast a bundle is here, under which conditions, and what that is worth."""

from cdm_export.bench.bench import BenchRequest, bench_bundle
from cdm_export.bench.result import BenchResult, load_result

__all__ = ["BenchRequest", "BenchResult", "bench_bundle", "load_result"]
