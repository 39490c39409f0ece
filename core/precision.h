// How precisely CUDA devices multiply matrices of f32.
#pragma once

#include <cstdint>
#include <string_view>

namespace conclave {

/// What is multiplied is as it is (f32), rounded or cut off to 11 significant bits (tf32, as cuBLASLt likes)
/// or rounded to 8 (bf16), which tensor cores multiply some eight and sixteen times as fast. Sums of products
/// are f32 in any case, as are their results, and all that is no product; and so are products on processors,
/// and those of kernels of our own. Convolutions follow it but for bf16, with which they are f32.
enum class Precision : std::uint8_t { f32, tf32, bf16 };

std::string_view name_of(Precision precision);
Precision precision_from(std::string_view name);  ///< inverse of name_of; throws Error on an unknown name

/// That of products from now on, in all threads of this process; f32 until it is set.
void set_precision(Precision precision);
Precision precision();

}  // namespace conclave
