"""What every mixer with a state of fixed size begins with."""

from __future__ import annotations

from abc import abstractmethod
from typing import Generic, TypeVar

from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.cache import RecurrentState, State
from nexus_universal.layers.call import Call, CallPlan

S = TypeVar("S", bound=RecurrentState)


class RecurrentMixer(nn.Module, Generic[S]):
    """A mixer whose `mix` gets a call that has begun, and a state of `state_kind` or none."""

    state_kind: type[RecurrentState] = RecurrentState

    def __init__(self, plan: CallPlan | None = None) -> None:
        super().__init__()
        self.plan = plan or CallPlan()
        self.plan.recurrent = True

    def new_state(self) -> State:
        """An empty state for this mixer."""
        return self.state_kind()

    def forward(
        self,
        x: Float[Tensor, "batch seq d_hidden"],
        call: Call | None = None,
        state: State | None = None,
    ) -> Float[Tensor, "batch seq d_hidden"]:
        assert state is None or isinstance(state, self.state_kind)
        return self.mix(x, call or self.plan.begin(x), state)  # type: ignore[arg-type]

    @abstractmethod
    def mix(
        self, x: Float[Tensor, "batch seq d_hidden"], call: Call, state: S | None
    ) -> Float[Tensor, "batch seq d_hidden"]:
        """What the mixer gives for x; `state`, if any, goes on."""
