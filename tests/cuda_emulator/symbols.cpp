// Names and addresses from the symbol table of the program. __global__ and __shared__ add a tag to the names
// of kernels and shared variables (GCC's abi_tag), by which they are found.
#include <cxxabi.h>
#include <elf.h>
#include <link.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

#include "tests/cuda_emulator/internal.h"

// Defined by the linker: the begin and the end of the program.
extern "C" const char __executable_start, _end;

namespace conclave::emulator {
namespace {

constexpr std::string_view kShared = "B15emulated_shared", kGlobal = "B15emulated_global";

struct Symbols {
  std::map<std::uintptr_t, std::string> kernels;
  std::vector<SharedVariable> variables;
};

Symbols read_symbols() {
  std::string image(std::filesystem::file_size("/proc/self/exe"), '\0');
  std::ifstream("/proc/self/exe", std::ios::binary)
      .read(image.data(), static_cast<std::streamsize>(image.size()));
  Elf64_Ehdr header{};
  image.copy(reinterpret_cast<char*>(&header), sizeof header);
  std::uintptr_t base = 0;  // load address of the program, which is the first object
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* result) {
        *static_cast<std::uintptr_t*>(result) = info->dlpi_addr;
        return 1;
      },
      &base);

  const auto section = [&](std::size_t index) {
    Elf64_Shdr result{};
    image.copy(reinterpret_cast<char*>(&result), sizeof result, header.e_shoff + index * header.e_shentsize);
    return result;
  };
  Symbols symbols;
  for (std::size_t s = 0; s < header.e_shnum; ++s) {
    const Elf64_Shdr table = section(s);
    if (table.sh_type != SHT_SYMTAB) continue;
    const Elf64_Shdr names = section(table.sh_link);
    for (std::size_t at = table.sh_offset; at < table.sh_offset + table.sh_size; at += sizeof(Elf64_Sym)) {
      Elf64_Sym symbol{};
      image.copy(reinterpret_cast<char*>(&symbol), sizeof symbol, at);
      const std::string_view name(image.data() + names.sh_offset + symbol.st_name);
      const std::uintptr_t where = base + symbol.st_value;
      const int type = ELF64_ST_TYPE(symbol.st_info);
      if (type == STT_FUNC && name.find(kGlobal) != name.npos) symbols.kernels.emplace(where, name);
      // "_ZZ" kernel "E" variable
      if (type == STT_OBJECT && name.starts_with("_ZZ") && name.find(kShared) != name.npos) {
        const std::string text(name), readable = readable_name(text);
        symbols.variables.push_back({where, symbol.st_size, readable, text.substr(3), {}});
      }
    }
  }
  for (SharedVariable& variable : symbols.variables) {
    std::string owner;
    for (const auto& [where, kernel] : symbols.kernels)
      if (variable.kernel.starts_with(kernel.substr(2) + "E")) owner = kernel;
    // A variable of a kernel without a symbol, inlined or never launched, counts as one of a called function.
    // That is harmless.
    variable.kernel = owner;
  }
  std::ranges::sort(symbols.variables, {}, &SharedVariable::begin);
  return symbols;
}

Symbols& symbols() {
  static Symbols& result = *new Symbols(read_symbols());
  return result;
}

}  // namespace

std::vector<SharedVariable>& shared_variables() { return symbols().variables; }

std::string mangled_name(const void* function) {
  const auto found = symbols().kernels.find(address(function));
  return found == symbols().kernels.end() ? "" : found->second;
}

std::string readable_name(const std::string& mangled) {
  int status = 0;
  char* const text = abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status);
  std::string result = text ? text : mangled;
  std::free(text);
  for (const std::string_view noise :
       {"[abi:emulated_global]", "[abi:emulated_shared]", "(anonymous namespace)::", "conclave::"})
    for (std::size_t at; (at = result.find(noise)) != result.npos;) result.erase(at, noise.size());
  return result;
}

bool in_program(std::uintptr_t at) { return at >= address(&__executable_start) && at < address(&_end); }

}  // namespace conclave::emulator
