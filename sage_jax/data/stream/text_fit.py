"""Whether the text of every record fits the shapes of the config, found out before anything trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sage_jax.config import DataConfig
from sage_jax.data.images import ImageFault
from sage_jax.data.records import Fault, Record
from sage_jax.data.sources.readers import file_and_line
from sage_jax.data.trees.encode import TreeError, TreeFormat, TreeUse, encode_text
from sage_jax.data.trees.shapes import TreeShape, choose_bucket, most_needed


def measure_text(
    records: Sequence[Record], form: TreeFormat, use: TreeUse, data: DataConfig
) -> Iterator[Fault | TreeShape]:
    """Shape that each record's tree can need; or the reason why its text does not fit, with file, line and option.

    Of questions drawn at random the longest count, so that no draw can fail where this finds nothing. Of an image only
    the header is read, and that only where the number of its tokens depends on it.
    """
    for index in range(len(records)):
        record = records[index]
        try:
            tokens = encode_text(record, form, use, with_reference=True)
            needed = most_needed(tokens, use.questions_per_image)
            choose_bucket([needed.length], [record.record_id], form.text)
        except (TreeError, ImageFault) as error:
            file, line = file_and_line(record, data)
            problem, _, cure = str(error).rpartition(": ")
            yield Fault(file, line, problem, cure)
        else:
            yield needed
