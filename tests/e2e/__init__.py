"""End-to-end tests: the chart, the image and the operator on a real Kubernetes, with real MySQL servers around them."""
