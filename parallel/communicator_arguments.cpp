#include "parallel/communicator_arguments.h"

namespace conclave {

void expect_contiguous(const char* operation, const char* argument, const Tensor& tensor) {
  require(tensor.contiguous(), "{}: {} {} is a view with gaps; pass a contiguous tensor", operation, argument,
          tensor.shape());
}

void expect_reducible(const char* operation, const Tensor& values) {
  require(values.dtype() != DType::bf16 && values.dtype() != DType::i8,
          "{}: values are {}; f32, f64, i32, i64 and u8 can be reduced", operation, name_of(values.dtype()));
}

void expect_root(int root, int ranks) {
  require(root >= 0 && root < ranks, "broadcast: root {} is not one of the {} ranks", root, ranks);
}

void expect_gathered(const Tensor& mine, const Tensor& gathered, int ranks) {
  require(gathered.dtype() == mine.dtype() && gathered.numel() == mine.numel() * ranks,
          "all_gather: gathered {} {} does not hold {} times mine {} {}", name_of(gathered.dtype()),
          gathered.shape(), ranks, name_of(mine.dtype()), mine.shape());
}

void expect_same_rows(const char* operation, const Tensor& send, const Tensor& receive) {
  require(send.dtype() == receive.dtype() && row_elements(send) == row_elements(receive),
          "{}: rows of send {} {} and receive {} {} differ", operation, name_of(send.dtype()), send.shape(),
          name_of(receive.dtype()), receive.shape());
}

void expect_row_counts(const char* argument, const Tensor& tensor, std::span<const Index> rows, int ranks) {
  require(tensor.rank() >= 1 && rows.size() == static_cast<std::size_t>(ranks),
          "all_to_all: {} {} with {} row counts, in a group of {} ranks; give a tensor of rows and one count "
          "per rank",
          argument, tensor.shape(), rows.size(), ranks);
  Index total = 0;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    require(rows[r] >= 0 && rows[r] <= tensor.size(0) - total,
            "all_to_all: {} {} has no room for {} rows of rank {} after {} of the ranks before it", argument,
            tensor.shape(), rows[r], r, total);
    total += rows[r];
  }
}

void expect_own_rows(std::span<const Index> send_rows, std::span<const Index> receive_rows, int rank) {
  const auto me = static_cast<std::size_t>(rank);
  require(send_rows[me] == receive_rows[me], "all_to_all: rank {} sends itself {} rows but expects {}", rank,
          send_rows[me], receive_rows[me]);
}

void expect_blocks(const Tensor& tensor, std::span<const PeerRows> blocks, const char* argument, int rank,
                   int ranks) {
  for (const auto& [peer, first, rows] : blocks) {
    require(peer >= 0 && peer < ranks && peer != rank,
            "start_exchange: rank {} is not another of the {} ranks", peer, ranks);
    require(first >= 0 && rows >= 0 && first + rows <= tensor.size(0),
            "start_exchange: rows [{}, +{}) for rank {} are not in {} {}", first, rows, peer, argument,
            tensor.shape());
  }
}

Index row_elements(const Tensor& tensor) {
  Index elements = 1;
  for (int dim = 1; dim < tensor.rank(); ++dim) elements *= tensor.size(dim);
  return elements;
}

}  // namespace conclave
