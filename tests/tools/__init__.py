"""What is no test: benchmarks, a soak test, a demo, Django's and CPython's own tests."""
