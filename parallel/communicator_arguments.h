// What every engine asks of an operation's arguments, in the same words; all throw Error. For engines.
#pragma once

#include <span>

#include "parallel/communicator.h"

namespace conclave {

void expect_contiguous(const char* operation, const char* argument, const Tensor& tensor);
void expect_reducible(const char* operation, const Tensor& values);
void expect_root(int root, int ranks);
void expect_gathered(const Tensor& mine, const Tensor& gathered, int ranks);
void expect_same_rows(const char* operation, const Tensor& send, const Tensor& receive);

/// Of one side of an all_to_all: a count for each rank, and a tensor that has room for them.
void expect_row_counts(const char* argument, const Tensor& tensor, std::span<const Index> rows, int ranks);
void expect_own_rows(std::span<const Index> send_rows, std::span<const Index> receive_rows, int rank);

/// Of one side of a start_exchange by `rank`: blocks for others, within the tensor.
void expect_blocks(const Tensor& tensor, std::span<const PeerRows> blocks, const char* argument, int rank,
                   int ranks);

/// How many elements a row of `tensor`, in dimension 0, has.
Index row_elements(const Tensor& tensor);

}  // namespace conclave
