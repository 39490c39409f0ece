// The precision of f32 matrix products on CUDA devices.
#pragma once

#include <cstdint>
#include <string_view>

namespace conclave {

/// Operands are multiplied unchanged (f32), rounded or truncated by cuBLASLt to 11 significant bits (tf32),
/// or rounded to 8 (bf16). Tensor cores multiply tf32 about eight times and bf16 about sixteen times as fast
/// as f32. Sums and results are f32 in any case. Products on the CPU, products by our own kernels, and all
/// other operations compute in f32. Convolutions follow the setting, except that they compute in f32 for
/// bf16.
enum class Precision : std::uint8_t { f32, tf32, bf16 };

std::string_view name_of(Precision precision);
Precision precision_from(std::string_view name);  ///< inverse of name_of; throws Error on an unknown name

/// Sets the precision of all later products in this process, in all threads; f32 by default.
void set_precision(Precision precision);
Precision precision();

}  // namespace conclave
