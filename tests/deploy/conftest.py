"""The chart is tested where helm is; `make test-deploy` gets one first. The image is tested by `make test-image`."""

from __future__ import annotations

from tools import helm

collect_ignore_glob = [] if helm.find() is not None else ["test_the_chart.py"]
