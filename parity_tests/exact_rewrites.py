"""Rewrites one after another: the output stays, and multiply-adds fall by as many as each says."""

from torch.utils.flop_counter import FlopCounterMode

from cdm_export.transforms import rules_of, specialize


def check_one_by_one(variant, exportable, images, size, most):
    """Apply every rule of ``variant`` that fits; the output moves by ``most`` of its largest value. Their names."""
    expected = exportable(*images)

    def products():
        with FlopCounterMode(display=False) as counter:
            exportable(*images)
        return counter.get_total_flops() // 2

    applied = set()
    for name, rule in rules_of(variant).items():
        if rule.check(exportable):
            continue
        before = products()
        saving = specialize(exportable, size, {name: rule})[name]
        assert saving.modules and before - products() == saving.macs, name
        assert float((exportable(*images) - expected).abs().max() / expected.max()) <= most, name
        applied.add(name)
    return applied
