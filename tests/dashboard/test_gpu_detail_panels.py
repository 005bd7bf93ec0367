"""Words of one GPU's page."""

from dashboard import gpu_detail_panels


def test_how_far_a_number_is_known_is_a_mark_and_a_word():
    row = {"here_now": True, "attribution": "estimated"}
    assert gpu_detail_panels.known_words(row) == "◐ estimated"
    assert gpu_detail_panels.known_words({**row, "here_now": False}) == "not here now"
