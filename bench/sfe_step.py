"""One step of supervised training (SFE's next-token loss): the best answer of Q questions an image.

    python -m bench.sfe_step --size small --rows 4 --questions 1

One question an image is what a trainer of plain rows does, so that tokens/s compare; with five, they share the image.
"""

from __future__ import annotations

from bench.measure import size_of
from bench.training import batches_of, measure_steps, stage, training_parser
from sage_jax.process.allocator import restart_with_huge_pages
from sage_jax.training.objectives import SftObjective


def main() -> None:
    """Measures and prints."""
    options = training_parser(__doc__, questions=1).parse_args()
    size = size_of(options)
    measure_steps("sfe_step", size, options, stage(options), SftObjective(), batches_of(size, options, num_answers=1))


if __name__ == "__main__":
    restart_with_huge_pages()
    main()
