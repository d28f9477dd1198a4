"""The table of patch encoders says what the cards say, and marks what one source alone states."""

import pandas as pd
import pytest

from tests.docs import patch_encoder_table
from tests.marked import read_marked


def test_the_table_is_that_of_the_cards_and_no_second_source_contradicts():
    made = patch_encoder_table.table()
    assert made == read_marked(patch_encoder_table.PAGE, "cards"), (
        "python -m tests.docs.patch_encoder_table writes it"
    )


@pytest.mark.parametrize(("stated", "confirmed"), [(["1024"], True), ([""], False), ([], False)])
def test_a_fact_is_confirmed_by_a_source_that_states_it(stated, confirmed):
    others = pd.DataFrame({"encoder": ["uni"] * len(stated), "dim": stated})
    assert patch_encoder_table.second_source("dim", {"dim": "1024"}, others) == confirmed


def test_a_source_that_states_another_fact_is_an_error():
    others = pd.DataFrame({"encoder": ["uni"], "dim": ["768"]})
    with pytest.raises(AssertionError, match=r"uni: dim is 1024, not \['768'\]"):
        patch_encoder_table.second_source("dim", {"dim": "1024"}, others)
