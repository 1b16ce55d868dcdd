# The fallback for a clone without cmake: the CPU-only addon, from the globs of CMakeLists.txt and
# with its flags. It is not published: npm would run node-gyp over a prebuilt addon.
{
  'targets': [
    {
      'target_name': 'polylora',
      'sources': ['<!@(node scripts/native-sources.mjs)'],
      'include_dirs': ['src'],
      'defines': ['NAPI_VERSION=8'],
      # node-gyp turns exceptions and run-time types off, and picks a later standard.
      'cflags_cc!': ['-fno-exceptions', '-fno-rtti', '-std=gnu++17', '-std=gnu++20'],
      'cflags_cc': [
        '-std=c++17', '-fexceptions', '-frtti', '-O3', '-Wall', '-Wextra', '-pthread',
        '-ffp-contract=off', '-fno-math-errno', '-fvisibility=hidden', '-fvisibility-inlines-hidden',
      ],
      'ldflags': [
        '-pthread', '-Wl,--gc-sections',
        '-Wl,--version-script=<(module_root_dir)/src/binding/exports.map',
      ],
      'libraries': ['-ldl'],
    },
  ],
}
