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

/// Of the parts, one after another.
std::array<std::byte, 32> sha256_digest(std::initializer_list<std::span<const std::byte>> parts);

// In hexadecimal: what things are called by in logs that must convince.
std::string sha256(std::string_view data);
/// Throws Error where the file cannot be read.
std::string sha256_of(const std::filesystem::path& file);

}  // namespace conclave
