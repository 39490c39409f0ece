// SHA-256, in hexadecimal: what things are called by in logs that must convince.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace conclave {

std::string sha256(std::string_view data);
/// Throws Error where the file cannot be read.
std::string sha256_of(const std::filesystem::path& file);

}  // namespace conclave
