#include "core/precision.h"

#include <array>
#include <atomic>

#include "core/error.h"

namespace conclave {
namespace {

constexpr std::array<std::string_view, 3> kNames{"f32", "tf32", "bf16"};

std::atomic<Precision> precision_of_products = Precision::f32;

}  // namespace

std::string_view name_of(Precision precision) { return kNames[static_cast<std::size_t>(precision)]; }

Precision precision_from(std::string_view name) {
  for (std::size_t i = 0; i < kNames.size(); ++i)
    if (kNames[i] == name) return static_cast<Precision>(i);
  fail("no precision is named '{}'; there are f32, tf32, bf16", name);
}

void set_precision(Precision precision) { precision_of_products = precision; }
Precision precision() { return precision_of_products; }

}  // namespace conclave
