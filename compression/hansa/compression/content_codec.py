"""The plan's codec on whole messages: what both ends of the plane do to a round's contents.

Only training is coded, and in it only the record ``arrays``: an evaluation judges the model exactly
as it will be released. Settings and metrics travel as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy.typing as npt

from hansa.compression.codec import (
    DecodedUpdate,
    decode_model,
    encode_model,
    encode_update,
    lowered,
    restored,
)
from hansa.compression.parcel import AS_IT_IS
from hansa.core.content import Content
from hansa.core.plan import CodecSpec, FederationSpec
from hansa.core.privacy.mechanism import Entropy
from hansa.core.update import Arrays

ARRAYS: Final = "arrays"
"""The record that is coded."""

_PLAIN: Final = CodecSpec()


@dataclass(frozen=True, kw_only=True)
class ContentCodec:
    """How the contents of one phase of one plan travel."""

    spec: CodecSpec
    sums: bool
    """Whether updates are summed secretly; they have a coding of their own then."""

    @classmethod
    def of(cls, federation: FederationSpec, phase: str) -> "ContentCodec":
        """The codec of a phase; that of any phase but training changes nothing."""
        spec = federation.codec if phase == "train" else _PLAIN
        return cls(spec=spec, sums=federation.secure_aggregation is not None)

    @property
    def codes_down(self) -> bool:
        """Whether the model travels otherwise than it is."""
        return self.spec.downlink_bits != AS_IT_IS or self.spec.zstd

    @property
    def codes_up(self) -> bool:
        """Whether updates do."""
        return not self.sums and (self.spec.uplink_bits != AS_IT_IS or self.spec.zstd)

    def encode_down(self, content: Content) -> Content:
        """A task's content as it travels: the same bytes whenever it is encoded.

        Raises:
            InvalidInputError: a value is not finite.
        """
        if not self.codes_down or ARRAYS not in content.arrays:
            return content
        spec = self.spec
        model = encode_model(content.arrays[ARRAYS], bits=spec.downlink_bits, zstd=spec.zstd)
        return _with_arrays(content, model)

    def decode_down(self, content: Content, *, max_bytes: int) -> Content:
        """A task's content as it was meant.

        Raises:
            InvalidInputError: its arrays cannot be read, or are larger than ``max_bytes``.
        """
        if not self.codes_down or ARRAYS not in content.arrays:
            return content
        return _with_arrays(content, decode_model(content.arrays[ARRAYS], max_bytes=max_bytes))

    def encode_up(
        self, reply: Content, base: Arrays, *, residual: Arrays, entropy: Entropy
    ) -> tuple[Content, Arrays]:
        """A noised reply as it travels, and what of it stays behind.

        Raises:
            InvalidInputError: the reply's arrays are not those of the model, or not finite.
        """
        if not self.codes_up or ARRAYS not in reply.arrays:
            return reply, {}
        encoded = encode_update(
            reply.arrays[ARRAYS],
            base,
            bits=self.spec.uplink_bits,
            zstd=self.spec.zstd,
            entropy=entropy,
            residual=residual,
        )
        return _with_arrays(reply, encoded.arrays), encoded.residual

    def decode_up(self, reply: Content, base: Arrays) -> Content:
        """A reply as it was meant; its arrays are decoded when they are asked for.

        Raises:
            UpdateRejectedError: its arrays are not those of the model. To ask for one that is not
                coded as the plan says raises this too.
        """
        if not self.codes_up or ARRAYS not in reply.arrays:
            return reply
        update = DecodedUpdate.of(reply.arrays[ARRAYS], base, bits=self.spec.uplink_bits)
        return _with_arrays(reply, update)

    def lowered(self, model: Arrays) -> Arrays:
        """The model as every merchant reads it; see ``hansa.compression.codec.lowered``."""
        return lowered(model, bits=self.spec.downlink_bits)

    def restored(self, aggregate: Arrays, model: Arrays) -> Arrays:
        """The aggregate with what the way down had rounded off the model."""
        return restored(aggregate, model, self.lowered(model))


def _with_arrays(content: Content, arrays: Mapping[str, npt.NDArray[Any]]) -> Content:
    return replace(content, arrays={**content.arrays, ARRAYS: arrays})
