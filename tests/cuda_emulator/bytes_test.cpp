// Kernels move no more bytes than they need: compares the counts of the emulated device with
// tests/cuda/operations.h.
#include <fmt/format.h>
#include <catch2/catch.hpp>

#include <fstream>
#include <sstream>

#include "core/cuda/launch.h"
#include "tests/cuda/operations.h"
#include "tests/cuda_emulator/emulator.h"

namespace conclave::roofline {
namespace {

const std::string kFolder = CONCLAVE_SOURCE "/core/kernels/", kTable = kFolder + "cuda_roofline.tsv";

struct Counted {
  Operation operation;
  Bytes memory;  // sum over all launches
  double between_caches = 0;
  std::string launches;  // one line for each launch
};

Counted count(Operation&& operation) {
  const std::vector<Tensor> tensors = operation.tensors();
  emulator::take_traffic();
  emulator::count_traffic(true);
  operation.run(tensors);
  cuda::check(cudaDeviceSynchronize(), operation.name.c_str());
  emulator::count_traffic(false);
  Counted result;
  for (const emulator::Traffic& traffic : emulator::take_traffic()) {
    result.memory.read += static_cast<double>(traffic.read);
    result.memory.written += static_cast<double>(traffic.written);
    result.between_caches += static_cast<double>(traffic.read_by_blocks + traffic.written_by_blocks);
    result.launches +=
        fmt::format("{} read, {} written by {}\n", traffic.read, traffic.written, traffic.what);
  }
  result.operation = std::move(operation);
  return result;
}

/// The counts of all operations at small sizes; none in a build without checks of accesses.
const std::vector<Counted>& counted() {
  static const std::vector<Counted> all = [] {
    std::vector<Counted> result;
    if (emulator::count_traffic(false))
      for (Operation& operation : operations(Size::small)) result.push_back(count(std::move(operation)));
    return result;
  }();
  return all;
}

/// core/kernels/cuda_roofline.tsv: floors of large shapes, and for small shapes the ratio of moved to least
/// bytes.
std::string roofline_table() {
  std::string text = fmt::format(
      "H100: {} TB/s, {} TFLOP/s of f32, {} TFLOP/s of bf16 products\n"
      "operation\tsizes\tbytes\tFLOPs\tfloor us\tbound by\tmoved / bytes\tbetween caches / bytes\tmore "
      "because\n",
      kH100.bytes / 1e12, kH100.f32 / 1e12, kH100.bf16_products / 1e12);
  const std::vector<Operation> large = operations(Size::large);
  for (std::size_t i = 0; i < large.size(); ++i) {
    const Operation& at = large[i];
    const Counted& small = counted()[i];
    const double least = small.operation.least().total(), seconds = floor_of(at, kH100);
    text += fmt::format("{}\t{}\t{:.0f}\t{:.0f}\t{:.2f}\t{}\t{:.2f}\t{:.2f}\t{}\n", at.name, at.sizes,
                        at.least().total(), at.flops, seconds * 1e6,
                        seconds > at.least().total() / kH100.bytes ? "arithmetic" : "memory",
                        small.memory.total() / least, small.between_caches / least, at.reason);
  }
  return text;
}

std::string contents(const std::string& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

TEST_CASE("no operation moves more than 1.1 times its bytes") {
  for (const Counted& at : counted()) {
    const double expected = at.operation.least().total() + at.operation.more.total();
    INFO(at.operation.name << " of " << at.operation.sizes << ":\n" << at.launches);
    CHECK(at.memory.total() <= 1.1 * expected);
    CHECK(at.memory.total() >= 0.95 * expected);  // otherwise the table claims too much
  }
  CHECK(emulator::take_report() == "");
}

TEST_CASE("every kernel belongs to an operation in the table of floors") {
  if (counted().empty()) return;
  std::string launches;
  for (const Counted& at : counted()) launches += at.launches;
  std::stringstream rows(contents(kFolder + "cuda_resources.tsv"));
  std::string row;
  std::getline(rows, row);  // the compiler
  std::getline(rows, row);  // names of columns
  while (std::getline(rows, row)) {
    std::stringstream words(row.substr(0, row.find('\t')));
    for (std::string word; words >> word;) {
      INFO(row << ": launched by no operation of tests/cuda/operations.cpp");
      CHECK_THAT(launches, Catch::Contains(word));
    }
  }
}

TEST_CASE("the table of floors agrees with the kernels") {
  if (counted().empty()) return;
  INFO("build/release/emulated_tests '[write_roofline]' writes it anew");
  CHECK(contents(kTable) == roofline_table());
}

TEST_CASE("write the table of floors", "[.][write_roofline]") {
  REQUIRE_FALSE(counted().empty());
  std::ofstream(kTable) << roofline_table();
}

}  // namespace
}  // namespace conclave::roofline
