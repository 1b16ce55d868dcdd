// The header of a safetensors file: u64 little-endian N, N bytes of JSON, then the buffer.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace polylora::io {

struct SafetensorsEntry {
  std::string name;
  std::string dtype;  // as the file spells it
  std::vector<uint64_t> shape;
  uint64_t begin = 0;  // bytes from the start of the file
  uint64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // in the order of the buffer
  std::vector<std::pair<std::string, std::string>> metadata;
};

constexpr uint64_t kMostHeaderBytes = 100'000'000;
constexpr uint64_t kMostFileBytes = uint64_t(1) << 53;

// Bits of an element; 0 if the format has no such dtype.
unsigned dtype_bits(const std::string& dtype);

// N, from the first 8 bytes. Throws Format if the file cannot have a header of that size.
uint64_t parse_header_size(const std::string& path, const unsigned char* bytes, uint64_t file_size);

// Throws Format naming the first thing that is wrong: every name once, every dtype known, every
// size what shape and dtype say, and the tensors fill the buffer without gap or overlap.
SafetensorsHeader parse_header(const std::string& path, const std::string& text,
                               uint64_t file_size);

// `text` with quotes, as JSON.
std::string json_string(const std::string& text);

}  // namespace polylora::io
