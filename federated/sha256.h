// SHA-256.
#pragma once

#include <array>
#include <cstddef>
#include <filesystem>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

namespace conclave {

/// SHA-256 of the concatenated parts.
std::array<std::byte, 32> sha256_digest(std::initializer_list<std::span<const std::byte>> parts);

// In hexadecimal: identifiers in logs that serve as evidence.
std::string sha256(std::string_view data);
/// Throws Error if the file cannot be read.
std::string sha256_of(const std::filesystem::path& file);

}  // namespace conclave
