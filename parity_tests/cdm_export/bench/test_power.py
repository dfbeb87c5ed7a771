"""Power of a Jetson from files as its kernel writes them, and energy of a frame from that."""

import time

import pytest

from cdm_export.bench.environment import _power_mode
from cdm_export.bench.power import PowerMeter, Rail, find_rails


def chip(root, number, rails, name="ina3221"):
    """A sensor's folder; ``rails``: label, mV and mA by channel, as the INA3221 driver shows them."""
    folder = root / f"hwmon{number}"
    folder.mkdir()
    (folder / "name").write_text(f"{name}\n")
    for channel, (label, millivolts, milliamps) in enumerate(rails, 1):
        for file, text in (("in{}_label", label), ("in{}_input", millivolts), ("curr{}_input", milliamps)):
            (folder / file.format(channel)).write_text(f"{text}\n")
    (folder / "in7_label").write_text("sum of shunt voltages\n")
    (folder / "curr4_input").write_text("9999\n")
    return folder


def orin_nano(root):
    chip(root, 0, [("composite", 5000, 3000)], name="nct1008")
    return chip(root, 1, [("VDD_IN", 5040, 1000), ("VDD_CPU_GPU_CV", 5040, 250), ("VDD_SOC", 5040, 300)])


def test_rails_of_two_boards(tmp_path):
    for board in ("nano", "agx", "desktop"):
        (tmp_path / board).mkdir()
    orin_nano(tmp_path / "nano")
    assert {rail.name: rail.watts() for rail in find_rails(tmp_path / "nano")} == {
        "VDD_IN": 5.04, "VDD_CPU_GPU_CV": 1.26, "VDD_SOC": 1.512
    }  # fmt: skip
    chip(tmp_path / "agx", 3, [("VDD_GPU_SOC", 843, 6170), ("VDD_CPU_CV", 780, 3437), ("VIN_SYS_5V0", 4968, 953)])
    chip(tmp_path / "agx", 4, [("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 1800, 341)])
    assert [rail.name for rail in find_rails(tmp_path / "agx")] == [
        "VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"
    ]  # fmt: skip
    chip(tmp_path / "desktop", 0, [("Core 0", 1200, 1)], name="coretemp")
    assert find_rails(tmp_path / "desktop") == [] and find_rails(tmp_path / "none") == []


def meter(samples):
    return PowerMeter([], [(moment, dict(watts)) for moment, watts in samples])


def test_energy_is_power_within_the_calls_times_their_length():
    """10 W while it runs, 4 W between; calls of 0.2 s and two frames: 1 J per frame."""
    read = meter([(0.05 * n, {"VDD_IN": 10.0 if n % 8 < 4 else 4.0, "VDD_SOC": 1.0}) for n in range(24)])
    power = read.power([(0.0, 0.19), (0.4, 0.59), (0.8, 0.99)], 2)
    assert power.watts == {"VDD_IN": 10.0, "VDD_SOC": 1.0} and power.rails == ("VDD_IN",) and power.samples == 12
    assert power.joules_per_frame == pytest.approx(10 * 0.19 / 2)
    assert "0.95 J per frame (VDD_IN)" in str(power)
    assert read.power([(7.0, 8.0)], 1) is None


def test_the_whole_of_a_board_is_counted_once():
    agx = {"VDD_GPU_SOC": 5.0, "VDD_CPU_CV": 3.0, "VIN_SYS_5V0": 4.0, "VDDQ_VDD2_1V8AO": 1.0}
    assert meter([(0.5, agx)]).power([(0.0, 1.0)], 1).joules_per_frame == pytest.approx(12.0)
    strange = meter([(0.5, {"VDD_MYSTERY": 5.0})]).power([(0.0, 1.0)], 1)
    assert strange.joules_per_frame is None and "not known for this board" in str(strange)


def test_meter_reads_while_its_block_runs(tmp_path):
    folder = orin_nano(tmp_path)
    with PowerMeter(find_rails(tmp_path)) as running:
        began = time.perf_counter()
        while len(running.samples) < 3:
            assert time.perf_counter() - began < 30
            time.sleep(0.01)
        (folder / "curr1_input").write_text("not now\n")  # a missed beat is no sample
        (folder / "curr1_input").write_text("1000\n")
    taken = len(running.samples)
    assert running.power([(began, time.perf_counter())], 1).watts["VDD_IN"] == pytest.approx(5.04)
    time.sleep(0.05)
    assert len(running.samples) == taken


@pytest.mark.parametrize(
    ("told", "mode"),
    [("NV Fan Mode:quiet\nNV Power Mode: MODE_15W_6CORE\n2", "MODE_15W_6CORE"), ("", None), (None, None)],
)
def test_power_mode(told, mode):
    assert _power_mode(told) == mode


def test_no_sensor_no_thread():
    with PowerMeter([]) as idle:
        assert not idle._thread.is_alive()
    assert idle.samples == [] and idle.power([(0, 1)], 1) is None


def test_a_rail_says_when_it_does_not_answer(tmp_path):
    with pytest.raises(OSError):
        Rail("VDD_IN", tmp_path / "in1_input", tmp_path / "curr1_input").watts()
