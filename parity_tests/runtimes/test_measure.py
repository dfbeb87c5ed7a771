"""Timing, on a clock that the test owns."""

from cdm_export.runtimes.measure import measure


class Clock:
    """Each call of ``work(ms)`` advances it."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def work(self, milliseconds):
        def call():
            self.now += next(milliseconds) / 1e3

        return call


def constant(value):
    while True:
        yield value


def test_percentiles_of_known_times():
    clock = Clock()
    times = iter([100.0, 10.0, 10.0, *(float(value) for value in range(1, 101))])
    result = measure({"a": clock.work(times)}, least=100, most=100, clock=clock)["a"]
    assert (round(result.first), result.warm_ups, result.calls) == (100, 3, 100)
    assert round(result.p50, 2) == 50.5 and round(result.p90, 1) == 90.1 and round(result.max) == 100


def test_slow_first_calls_are_warm_up_and_not_timed():
    clock = Clock()

    def times():
        yield from (500.0, 80.0, 20.0, 10.0, 10.0)
        yield from constant(10.0)

    result = measure({"a": clock.work(times())}, clock=clock)["a"]
    assert round(result.first, 6) == 500.0
    assert round(result.max, 6) == 10.0 and result.warm_ups == 5


def test_warm_up_ends_even_when_times_never_settle():
    clock = Clock()

    def ever_faster():
        value = 1000.0
        while True:
            yield value
            value *= 0.8

    assert measure({"a": clock.work(ever_faster())}, clock=clock, most=5)["a"].warm_ups == 10


def test_calls_are_interleaved():
    order = []
    clock = Clock()

    def named(name):
        def call():
            order.append(name)
            clock.now += 0.001

        return call

    measure({"a": named("a"), "b": named("b")}, least=3, most=3, clock=clock)
    assert order[-6:] == ["a", "b", "a", "b", "a", "b"]


def test_budget_bounds_the_number_of_calls():
    clock = Clock()
    result = measure({"a": clock.work(constant(100.0))}, budget=2.0, clock=clock)["a"]
    assert result.calls == 20
    assert measure({"a": clock.work(constant(5000.0))}, budget=2.0, clock=clock)["a"].calls == 5
