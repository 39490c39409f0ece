// Checks of arguments that all engines share, so that their messages are the same. All throw Error. For
// engines.
#pragma once

#include <span>

#include "parallel/communicator.h"

namespace conclave {

void expect_contiguous(const char* operation, const char* argument, const Tensor& tensor);
void expect_reducible(const char* operation, const Tensor& values);
void expect_root(int root, int ranks);
void expect_gathered(const Tensor& mine, const Tensor& gathered, int ranks);
void expect_same_rows(const char* operation, const Tensor& send, const Tensor& receive);

/// Checks one side of an all_to_all: one count per rank, and a tensor with room for the rows.
void expect_row_counts(const char* argument, const Tensor& tensor, std::span<const Index> rows, int ranks);
void expect_own_rows(std::span<const Index> send_rows, std::span<const Index> receive_rows, int rank);

/// Checks one side of a start_exchange by `rank`: the blocks name other ranks and lie within the tensor.
void expect_blocks(const Tensor& tensor, std::span<const PeerRows> blocks, const char* argument, int rank,
                   int ranks);

/// Number of elements in one row (dimension 0) of `tensor`.
Index row_elements(const Tensor& tensor);

}  // namespace conclave
