"""``cdm-export verify``."""

from typing import Annotated

import typer

from cdm_export.cli.console import print_json, progress
from cdm_export.cli.options import BackendName, BundleArgument, CheckpointOption, DepthScale, Fit, Json, Quiet, Threads


def command(
    bundle: BundleArgument,
    backend: BackendName = "auto",
    frames: Annotated[
        str | None, typer.Option("--frames", help="Other frames than the golden ones: folder, frames.json, ...")
    ] = None,
    depth_scale: DepthScale = 1000.0,
    fit: Fit = False,
    checkpoint: CheckpointOption = None,
    threads: Threads = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Parity gate on every backend that can run here; exit code 1 when one fails."""
    from cdm_export.verify import VerifyRequest, verify_bundle

    request = VerifyRequest(bundle, backend, frames, depth_scale, fit, checkpoint, threads)
    with progress(not quiet and not as_json) as shown:
        verification = verify_bundle(request, shown)
    if as_json:
        print_json(
            {
                "bundle": str(bundle),
                "passed": verification.passed,
                "reference": verification.reference,
                "parity": [parity.model_dump(mode="json") for parity in verification.parities],
                "skipped": verification.skipped,
                "crashed": verification.crashed,
            }
        )
    elif not quiet:
        print(f"compared with: {verification.reference}")
        for parity in verification.parities:
            latency = f"; {parity.latency.p50:.0f} ms" if parity.latency else ""
            print(f"{parity.backend} {parity.precision}: {parity.verdict}{latency}")
        for name, why in verification.skipped.items():
            print(f"{name}: not run ({why})")
        for why in verification.crashed.values():
            print(f"failed: {why}")
    if not verification.passed:
        raise typer.Exit(1)
