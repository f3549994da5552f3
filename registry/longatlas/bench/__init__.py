"""pytest-benchmark comparisons of any installed method: `pytest --pyargs longatlas.bench`.

Samples are taken in each method's own worker and replayed into pytest-benchmark, so that its table, its saved runs and
its comparisons show true numbers, and a method that crashes costs its own line.
"""
