"""An engine in words, the same after ``build`` and in ``inspect``."""

from cdm_export.runtimes.engine_record import EngineRecord


def layer_report_lines(record: EngineRecord) -> list[str]:
    """What it is, what it is made of, and every check with its outcome."""
    evidence, settings = record.layer_report, record.settings
    how = f"{settings.typing} types, TF32 {'on' if settings.tf32 else 'off'}, level {settings.optimization_level}"
    lines = [
        f"{record.precision} {record.state.value}, {record.engine.size / 1e6:,.1f} MB, for {record.machine}",
        f"built in {record.build_seconds:.0f} s from {record.source.artifact}: {how}"
        + (f", workaround {settings.workaround}" if settings.workaround else ""),
    ]
    if evidence.kernels:
        kinds = "; ".join(
            f"{kind} {', '.join(f'{count} {type_}' for type_, count in types.items())}"
            for kind, types in evidence.by_kind.items()
        )
        lines.append(f"{evidence.kernels} kernels: {kinds} ({evidence.source})")
    lines += [f"{check.outcome}: {check.name} ({check.detail})" for check in evidence.checks]
    if evidence.float32_products:
        lines.append(f"float32 products: {_shortened(evidence.float32_products)}")
    lines.append(f"self-test: {record.self_test or 'not run: it needs the device'}")
    return lines


def _shortened(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{names[0]} ... {names[-1]}, {len(names)} modules"
