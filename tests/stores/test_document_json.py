"""The text in which stores keep a document."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import get_type_hints

from hypothesis import given
from hypothesis import strategies as st

from livekit_pool.core.document import Cause, Document, Mark, ServerRecord
from livekit_pool.core.stored import to_mapping
from livekit_pool.stores.document_json import document_to_json

MOMENTS = st.floats(min_value=0) | st.integers(0, 2**40)
TEXTS = st.text(max_size=8)
MARKS = st.builds(Mark, by=TEXTS, since=MOMENTS, reason=TEXTS)
RECORDS = st.builds(
    ServerRecord,
    cool_down_until=st.none() | MOMENTS,
    cool_down_cause=st.none() | st.sampled_from(Cause),
    failures=st.integers(0, 9),
    drained=st.none() | MARKS,
)
OF_A_TYPE = {
    str: TEXTS,
    int: st.integers(0, 2**63),
    float: MOMENTS,
    Cause: st.sampled_from(Cause),
    str | None: st.none() | TEXTS,
    int | None: st.none() | st.integers(0, 20),
    float | None: st.none() | MOMENTS,
    Mark | None: st.none() | MARKS,
}
# By its type: a field that is added must be told here how it looks, or is made up as well.
DOCUMENTS = st.builds(
    Document,
    **{
        each.name: OF_A_TYPE[kind]
        if (kind := get_type_hints(Document)[each.name]) in OF_A_TYPE
        else st.dictionaries(st.text(max_size=5), RECORDS, max_size=3)
        for each in fields(Document)
    },
)


@given(DOCUMENTS)
def test_is_what_json_makes_of_the_stored_form(document: Document) -> None:
    assert document_to_json(document) == json.dumps(to_mapping(document))
