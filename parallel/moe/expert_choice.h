// The expert-choice gate (Zhou et al. 2022, arXiv:2202.09368, algorithm 1): each expert takes the tokens that
// want it most, the same number of them for every expert. Loads are even by construction; but a token may go
// to no expert, or to all, and its choice depends on every other token of the batch, so that it is here for
// comparison.
#pragma once

#include "autograd/functions/functions.h"
#include "parallel/communicator.h"

namespace conclave {

/// Collective over `world`, whose ranks hold consecutive parts of the batch: each expert takes its `capacity`
/// tokens of the highest probability (ties: the earlier token), whichever ranks they are on; all of them,
/// where there are fewer. probabilities [tokens, experts] -> experts [tokens, experts], -1 behind a token's
/// last, and weights, the probabilities themselves, 0 behind the last. While memory is being planned, as many
/// of this rank's tokens are taken as could ever be.
functions::Gate expert_choice_gate(Tape& tape, const Tensor& probabilities, Index capacity,
                                   Communicator& world);

}  // namespace conclave
