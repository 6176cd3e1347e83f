import matplotlib
from hypothesis import HealthCheck, settings

matplotlib.use("Agg")
# the same examples everywhere; slow machines are no failure
settings.register_profile("sfolib", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sfolib")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
