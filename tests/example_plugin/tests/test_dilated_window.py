from longatlas.testing import check_method


def test_conformance():
    check_method("dilated_window")
