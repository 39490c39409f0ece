// The expert-choice gate (Zhou et al. 2022, arXiv:2202.09368, algorithm 1): each expert takes the tokens with
// the highest probability for it, and every expert takes the same number. Loads are even by construction.
// However, a token may go to no expert or to all of them, and its choice depends on every other token of the
// batch, so this gate is provided for comparison only.
#pragma once

#include "autograd/functions/functions.h"
#include "parallel/communicator.h"

namespace conclave {

/// Collective over `world`; its ranks hold consecutive parts of the batch. Each expert takes the `capacity`
/// tokens with the highest probability over all ranks, or all tokens if there are fewer; of equal tokens, the
/// earlier one. probabilities [tokens, experts] -> gate.experts [tokens, experts], padded with -1 after a
/// token's last expert, and gate.weights, the probabilities of these, padded with 0. While memory is being
/// planned, each expert takes as many of this rank's tokens as it ever could.
functions::Gate expert_choice_gate(Tape& tape, const Tensor& probabilities, Index capacity,
                                   Communicator& world);

}  // namespace conclave
