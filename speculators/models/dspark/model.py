"""DSpark: a block whose tokens are each told the one before, with a confidence (arXiv:2607.05147), as vLLM computes it."""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from speculators.model import SpeculatorModel, TrainingContext
from speculators.models.block_model import BlockModel
from speculators.models.dspark.config import DSparkSpeculatorConfig
from speculators.models.dspark.heads import ConfidenceHead, MarkovHead
from speculators.models.dspark.settings import DSparkSettings
from speculators.nn.blocks import BlockDrafter, fill_blocks
from speculators.nn.vocabulary import widen
from speculators.protocols.batch import Batch
from speculators.protocols.drafter import Context, Predictions
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates
from speculators.protocols.initialisation import Initialisation
from speculators.protocols.rows import DraftOutput, LogitTerm, RowResults, Rows


@SpeculatorModel.register("dspark")
class DSparkModel(BlockModel):
    """The shared layers, the Markov head and the confidence head."""

    config_class = DSparkSpeculatorConfig
    config: DSparkSpeculatorConfig

    def __init__(self, config: DSparkSpeculatorConfig) -> None:
        super().__init__(config)
        if config.markov_head_type != "vanilla":
            raise ValueError(
                f"markov_head_type: {config.markov_head_type}; vLLM computes vanilla alone, and so is here"
            )
        layer, rank = config.transformer_layer_config, config.markov_rank
        if config.enable_confidence_head and config.confidence_head_with_markov and not rank:
            raise ValueError("confidence_head_with_markov=True requires markov_rank > 0.")
        self.markov_head = MarkovHead(layer.vocab_size, config.draft_vocab_size, rank) if rank else None
        size = layer.hidden_size + (rank if config.confidence_head_with_markov else 0)
        self.confidence_head = ConfidenceHead(size) if config.enable_confidence_head else None
        self.post_init()

    def is_causal(self, slides: bool) -> bool:
        """vLLM reads no flag: model_executor/models/qwen3_dflash.py:_dflash_layer_causal."""
        return slides

    @property
    def heads(self) -> tuple[Tensor, ...]:
        """[D, r] the Markov head's, if there is one."""
        return () if self.markov_head is None else (self.markov_head.weight,)

    def initialise(self, given: Initialisation) -> None:
        """Random layers; W1 is ten times smaller than others, so that the Markov term starts at almost nothing."""
        super().initialise(given)
        if self.markov_head is not None:
            nn.init.normal_(self.markov_head.markov_w1.weight, std=0.01)

    def foreseen(self, hidden: Tensor, before: Tensor | None) -> Tensor | None:
        """Logits of the chance that a token is accepted, if there is a confidence head."""
        if self.confidence_head is None:
            return None
        return self.confidence_head(hidden, before if self.config.confidence_head_with_markov else None)

    def forward(
        self,
        batch: Batch,
        states: VerifierStates,
        verifier: VerifierHead,
        context: TrainingContext[DSparkSettings],
    ) -> DraftOutput:
        """Rows of every block; each is told the true token before the one that it predicts."""
        hidden_RH = fill_blocks(self, batch, states, verifier)
        terms, before_RI = [LogitTerm(hidden_RH, (self.head(verifier),))], None
        if self.markov_head is not None:
            before_RI = self.markov_head(batch.token_BT.flatten()[batch.rows.target_R])
            terms.append(LogitTerm(before_RI, (self.markov_head.weight,)))
        logit_R = self.foreseen(hidden_RH, before_RI)

        def confidence(results: RowResults) -> Tensor:
            assert logit_R is not None
            target_R = results.overlap_R.to(logit_R.dtype)
            return results.mean(F.binary_cross_entropy_with_logits(logit_R, target_R, reduction="none"))

        weights = self.row_weights(context.settings)
        rows = Rows(tuple(terms), self.kept_D, scaled_as_verifier=True, row_weights=weights)
        return DraftOutput({"rows": rows}, {} if logit_R is None else {"confidence": confidence})

    def drafter(self, verifier: VerifierHead, batch_size: int) -> "DSparkDrafter":
        """One block for each round, then token by token."""
        return DSparkDrafter(self, verifier, batch_size)


class DSparkDrafter(BlockDrafter):
    """Adds each node's Markov term when its token is known, and ends drafts by the foreseen acceptance."""

    def __init__(self, model: DSparkModel, verifier: VerifierHead, batch_size: int) -> None:
        super().__init__(model, verifier, batch_size)
        self.model = model

    def extend(self, context: Context, depth: int) -> Predictions:
        """The block, and the first slot after the token just sampled."""
        self.read(context, depth)
        self.level = 0
        return self._after(context.next_token_BT[:, -1:])

    def expand(self, token_BN: Tensor, parent_BN: Tensor) -> Predictions:
        """The next slot after each node's token."""
        self.level += 1
        return self._after(token_BN)

    def _after(self, token_BN: Tensor) -> Predictions:
        model, hidden_BH = self.model, self.output_BSH[:, self.level]
        logits_BNV = self.slot(self.level).unsqueeze(1).expand(-1, token_BN.shape[1], -1)
        hidden_BNH, before_BNr = hidden_BH.unsqueeze(1).expand(-1, token_BN.shape[1], -1), None
        if model.markov_head is not None:
            before_BNr = model.markov_head(token_BN)
            term_ND = model.markov_head.markov_w2(before_BNr).flatten(0, 1)
            logits_BNV = logits_BNV + widen(term_ND, model.kept_D, logits_BNV.shape[-1]).view_as(logits_BNV)
        foreseen_BN, threshold = model.foreseen(hidden_BNH, before_BNr), model.config.confidence_threshold
        if foreseen_BN is None or not threshold:
            return Predictions(logits_BNV)
        return Predictions(logits_BNV, foreseen_BN >= math.log(threshold / (1 - threshold)))
