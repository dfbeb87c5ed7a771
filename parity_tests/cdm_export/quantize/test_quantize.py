"""INT8 piece by piece: steps, bounds, smoothing, and a graph that computes what was simulated."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from cdm_export.onnx.convert import export_onnx
from cdm_export.quantize.check_qdq import check_rules
from cdm_export.quantize.collect_ranges import gather
from cdm_export.quantize.fake_quant import quantized
from cdm_export.quantize.insert_qdq import insert_pairs, integer_weights
from cdm_export.quantize.layers import groups, integers, quantizable, round_up, weight_steps
from cdm_export.quantize.observers import OBSERVERS, Histogram
from cdm_export.quantize.smoothquant import choose_scales, fold, fold_all, smoothable
from cdm_export.reference_model.registry import get_variant
from cdm_export.reference_model.rewriting import apply_rule
from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.errors import CdmExportError, ParityError
from cdm_export.transforms import SHARED, linear_layout, rules_of, specialize

ROWS, COLUMNS = 5, 7
SIZE = Size(14 * COLUMNS, 14 * ROWS)
POLICY = get_variant("cdm-vits").quantization


@pytest.fixture(params=["mlp", "swiglu"])
def exportable(request, mini_variant):
    """A miniature CDM, specialized as calibration needs it."""
    torch.manual_seed(0)
    network = mini_variant.build(request.param).eval().requires_grad_(False)
    network.depth_head_rgbd.scratch.output_conv2[2].bias.fill_(3.0)
    exportable = mini_variant.exportable(network, "bgr").eval()
    rules = {name: rule for name, rule in rules_of(mini_variant).items() if name != "linear_layout"}
    specialize(exportable, SIZE, rules)
    return exportable


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.rand(1, channels, 14 * ROWS, 14 * COLUMNS, generator=generator) for channels in (3, 1))


def calibrated(exportable, variant, inputs):
    layers = quantizable(exportable.network, variant)
    with torch.inference_mode():
        gathered = gather(layers, [], [lambda: exportable(*inputs)])
    return layers, {path: OBSERVERS["abs-max"](seen.histogram) / 127 for path, seen in gathered.items()}


class TestLayers:
    def test_products_only_and_none_that_must_not(self, exportable, mini_variant):
        layers = quantizable(exportable.network, mini_variant)
        assert {f"pretrained.blocks.{index}.attn.qkv" for index in range(4)} <= set(layers)
        assert {"depth_head_rgbd.projects.2", "depth_head_rgbd.scratch.layer4_rn"} <= set(layers)
        assert not any("patch_embed" in path or "norm" in path or path.endswith(".core") for path in layers)
        assert mini_variant.last_convolution not in layers
        assert "depth_head_rgbd.projects.0" not in layers, "8 channels out"
        assert not any("refinenet4.resConfUnit1" in path for path in layers), "the forward never reads it"

    def test_a_convolution_for_all_phases_is_one_product(self):
        variant = get_variant("cdm-vitt")
        network = variant.build()
        apply_rule(SHARED["phase_convolution"], network, SIZE)
        assert "depth_head_rgbd.scratch.layer2_rn" in quantizable(network, variant)

    def test_every_layer_is_in_one_part(self, exportable, mini_variant):
        layers = quantizable(exportable.network, mini_variant)
        parts = groups(exportable.network, layers, mini_variant)
        assert sorted(path for paths in parts.values() for path in paths) == sorted(layers)
        assert len(parts["depth_pretrained.blocks.2"]) == 4
        assert "depth_head_rgbd.scratch.refinenet1" in parts
        assert parts["crossAtts.2"] == tuple(f"crossAtts.2.{name}" for name in ("query", "key", "value"))

    @given(st.floats(1e-12, 6e4))
    def test_steps_are_half_numbers_rounded_up(self, value):
        step = float(round_up(torch.tensor(value, dtype=torch.float64)))
        assert step == float(np.float16(step)) and step >= value
        assert step == 2.0**-24 or step <= value * (1 + 2**-10) + 2.0**-24

    def test_no_weight_is_cut_and_zeros_do_not_divide(self):
        weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(0)) * torch.tensor(
            [1e-7, 1e-4, 1.0, 30.0, 1e3, 0.0]
        ).reshape(6, 1)
        steps = weight_steps(weight)
        restored = integers(weight, steps).float() * steps[:, None]
        assert ((restored - weight).abs() <= 0.5001 * steps[:, None]).all()


class TestObservers:
    def histogram(self, *tensors):
        histogram = Histogram()
        for tensor in tensors:
            histogram.add(tensor)
        return histogram

    def test_what_was_seen_counts_not_in_which_order(self):
        generator = torch.Generator().manual_seed(0)
        small, large = torch.randn(5000, generator=generator), 100 * torch.randn(5000, generator=generator)
        one, other = self.histogram(small, large), self.histogram(large, small)
        assert one.counts.sum() == 10000 and one.range == other.range and one.largest == other.largest
        for name, observe in OBSERVERS.items():
            assert observe(one) == pytest.approx(observe(other), rel=1e-3), name

    def test_outliers_are_kept_cut_or_weighed(self):
        values = torch.cat((torch.randn(200_000, generator=torch.Generator().manual_seed(0)), torch.tensor([400.0])))
        bounds = {name: observe(self.histogram(values)) for name, observe in OBSERVERS.items()}
        assert bounds["abs-max"] == 400 and 3 < bounds["percentile"] < 6
        assert bounds["percentile"] < bounds["mse"] < 400

    def test_bounds_of_nothing_and_of_nan(self):
        assert [observe(self.histogram(torch.zeros(9))) for observe in OBSERVERS.values()] == [0, 0, 0]
        with pytest.raises(ParityError, match="NaN or Inf"):
            self.histogram(torch.tensor([1.0, float("nan")]))


class TestSmoothing:
    def test_folding_is_exact_and_taken_back_bit_by_bit(self, exportable, inputs):
        double = copy.deepcopy(exportable).double()
        wide = tuple(tensor.double() for tensor in inputs)
        before, expected = copy.deepcopy(exportable.state_dict()), double(*wide)
        generator = torch.Generator().manual_seed(3)
        scales = {
            target.path: torch.exp2(torch.randint(-6, 7, (target.layer.in_features,), generator=generator)).tolist()
            for target in smoothable(exportable.network, POLICY)
        }
        assert len(scales) == 3 * 8
        fold_all(double.network, POLICY, scales)
        assert float((double(*wide) - expected).abs().max() / expected.abs().max()) <= 1e-13
        fold_all(exportable.network, POLICY, scales)
        assert any(not torch.equal(value, before[name]) for name, value in exportable.state_dict().items())
        fold_all(
            exportable.network,
            POLICY,
            {path: [1 / scale for scale in values] for path, values in scales.items()},
        )
        assert all(torch.equal(value, before[name]) for name, value in exportable.state_dict().items())

    def test_an_outlier_channel_is_moved_into_the_weights(self, exportable):
        target = next(smoothable(exportable.network, POLICY))
        rows = torch.randn(256, target.layer.in_features, generator=torch.Generator().manual_seed(0))
        rows[:, 5] *= 300
        strength, scales = choose_scales(target.layer, rows.abs().amax(dim=0), rows)
        assert strength > 0 and float(scales[5]) >= 8 * float(scales.median())
        assert torch.equal(scales.log2(), scales.log2().round())
        exact = rows @ target.layer.weight.t()

        def error(weight, entering):
            step = float(entering.abs().max()) / 127
            steps = weight_steps(weight)
            product = (entering / step).round() * step @ (integers(weight, steps).float() * steps[:, None]).t()
            return float((product - exact).norm() / exact.norm())

        plain = error(target.layer.weight, rows)
        fold(target, scales)
        assert error(target.layer.weight, rows / scales) < 0.3 * plain

    def test_nothing_to_smooth_is_left_alone(self):
        layer = torch.nn.Linear(32, 32)
        rows = torch.sign(torch.randn(64, 32, generator=torch.Generator().manual_seed(0)))
        with torch.no_grad():
            layer.weight.copy_(torch.sign(layer.weight) * 0.5)
        strength, scales = choose_scales(layer, rows.abs().amax(dim=0), rows)
        assert strength == 0 and torch.equal(scales, torch.ones(32))


class TestGraph:
    @pytest.fixture
    def exported(self, exportable, mini_variant, inputs, tmp_path):
        """The graph's path, the steps, and what the simulation gives."""
        layers, steps = calibrated(exportable, mini_variant, inputs)
        steps.pop("depth_pretrained.blocks.1.attn.proj")  # one that is kept out
        chosen = {path: layers[path] for path in steps}
        generator = torch.Generator().manual_seed(0)
        with torch.inference_mode(), quantized(chosen, steps):
            simulated = exportable(*inputs)
            shaken = [
                exportable(*(one * (1 + 1e-6 * torch.randn(one.shape, generator=generator)) for one in inputs))
                for _ in range(3)
            ]
        flips = max(float((one - simulated).abs().mean()) for one in shaken)
        weights = integer_weights(chosen)
        linear_layout.apply(exportable.network, SIZE)
        contract = mini_variant.contract("cdm-vits", Size(160, 120), 70)
        path = tmp_path / "int8.onnx"
        export_onnx(exportable, contract, path, change=lambda model: insert_pairs(model, steps, weights))
        return path, steps, simulated.numpy(), flips

    def test_the_graph_computes_what_was_simulated(self, exported, inputs, exportable):
        path, steps, simulated, flips = exported
        check_rules(path, steps)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        got = session.run(None, {"image": inputs[0].numpy(), "inverse_depth": inputs[1].numpy()})[0]
        error = np.abs(simulated - exportable(*inputs).numpy()).mean()
        assert error > 1e-3 * simulated.std(), "nothing was quantized"
        # A value at the border between two integers may fall on either side of it, and so do all that follow from it:
        # as many as a last digit of the inputs moves.
        assert np.abs(got - simulated).mean() <= max(0.5 * error, 2 * flips)

    @pytest.mark.parametrize("exportable", ["mlp"], indirect=True)
    def test_a_layer_that_runs_twice_is_stored_once(self, exported):
        graph = onnx.load(exported[0]).graph
        products = [node for node in graph.node if node.name.startswith("crossAtts.2.query/MatMul")]
        makers = {node.output[0]: node for node in graph.node}
        color, depth = ([makers[name] for name in node.input] for node in products)
        assert color[0].input[0] != depth[0].input[0], "each reads its own token"
        assert color[1].output[0] != depth[1].output[0], "builders fold a restoring node into its one reader"
        assert color[1].input[0] == depth[1].input[0] == "crossAtts.2.query.integers"

    @pytest.mark.parametrize("exportable", ["mlp"], indirect=True)
    def test_planted_defects_and_other_plans_are_told(self, exported):
        path, steps, _, _ = exported
        right = path.read_bytes()
        for plant, told in (
            (lambda graph: _zero_point(graph, 3), "not symmetric int8"),
            (_restored_into_sum, "is read by Add"),
            (lambda graph: _step(graph, -1.0), "step that is not positive"),
            (_floats_again, "is not quantized"),
            (lambda graph: _floats_again(graph, "crossAtts.2.query/MatMul_2"), r"crossAtts\.2\.query is not quantized"),
        ):
            path.write_bytes(right)
            model = onnx.load(path)
            plant(model.graph)
            onnx.save(model, path)
            with pytest.raises(CdmExportError, match=told):
                check_rules(path, steps)
        path.write_bytes(right)
        with pytest.raises(CdmExportError, match=r"blocks.1.attn.proj is not quantized"):
            check_rules(path, [*steps, "depth_pretrained.blocks.1.attn.proj"])
        with pytest.raises(CdmExportError, match="is quantized and should not be"):
            check_rules(path, list(steps)[1:])


def _tensor(graph, end):
    return next(tensor for tensor in graph.initializer if tensor.name.endswith(end))


def _zero_point(graph, value):
    tensor = _tensor(graph, ".zero")
    tensor.CopyFrom(numpy_helper.from_array(np.array(value, np.int8), tensor.name))


def _step(graph, value):
    tensor = _tensor(graph, ".step")
    tensor.CopyFrom(numpy_helper.from_array(np.array(value, np.float32), tensor.name))


def _restored_into_sum(graph):
    restored = next(node for node in graph.node if node.op_type == "DequantizeLinear").output[0]
    add = next(node for node in graph.node if node.op_type == "Add" and node.name.endswith("fc1/Add"))
    add.input[0] = restored


def _floats_again(graph, product="attn.qkv/MatMul"):
    node = next(node for node in graph.node if node.name.endswith(product))
    quantize = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    source = next(one for one in graph.node if one.output[0] == quantize[node.input[0]].input[0])
    node.input[0] = source.input[0]
    node.input[1] = "float.weight"
    graph.initializer.append(numpy_helper.from_array(np.zeros((64, 192), np.float32), "float.weight"))
