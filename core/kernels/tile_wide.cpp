// Compiled for AVX-512, and called only where the processor has it. Code that this file shares with files for
// lesser processors must be inlined: otherwise the linker might choose this copy for them, too. So nothing of
// the standard library is called here.
#ifdef CONCLAVE_WIDE_VECTORS

#include "core/kernels/tile.h"

namespace conclave::kernels {

template <class T>
void tiles::wide_product(Index m, Index n, Index k, const T* a, Index a_row, Index a_column, const T* b,
                         Index b_row, T* c, Index c_row, bool accumulate) {
  constexpr int kBytes = 64;
  constexpr Index kColumns = kLanes<T, kBytes>;
  Index j = 0;
  for (; j + 2 * kColumns <= n; j += 2 * kColumns)
    rows<T, kBytes, 2, 8>(m, k, a, a_row, a_column, b + j, b_row, c + j, c_row, accumulate);
  for (; j < n; j += kColumns)
    rows<T, kBytes, 1, 12>(m, k, a, a_row, a_column, b + j, b_row, c + j, c_row, accumulate);
}

template void tiles::wide_product(Index, Index, Index, const float*, Index, Index, const float*, Index,
                                  float*, Index, bool);
template void tiles::wide_product(Index, Index, Index, const double*, Index, Index, const double*, Index,
                                  double*, Index, bool);

}  // namespace conclave::kernels

#endif
