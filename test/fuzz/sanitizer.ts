/** An addon built for a sanitizer, and the environment in which node loads it. */

import { execFileSync, spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, renameSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ScriptError } from '../../scripts/run.mjs'

export type Sanitizer = 'asan' | 'tsan'

const root = fileURLToPath(new URL('../..', import.meta.url))

const sanitizers = {
  asan: {
    library: 'libasan.so',
    options: {
      // V8's heap is full of what looks like leaks; what the addon leaks is counted by the parts.
      ASAN_OPTIONS: 'detect_leaks=0:abort_on_error=0:allocator_may_return_null=1',
      UBSAN_OPTIONS: 'print_stacktrace=1',
    },
  },
  tsan: {
    library: 'libtsan.so',
    options: {
      TSAN_OPTIONS: 'halt_on_error=0:exitcode=0:report_signal_unsafe=0:history_size=4',
    },
  },
} as const

/** @throws if there is no cmake, no such library, or the addon does not build */
export function sanitizerEnvironment(sanitizer: Sanitizer): NodeJS.ProcessEnv {
  if (!Object.hasOwn(sanitizers, sanitizer))
    throw new ScriptError(
      `--sanitizer takes ${Object.keys(sanitizers).join(' or ')}, not ${sanitizer}`,
    )
  const { library, options } = sanitizers[sanitizer]
  const compiler = process.env.CXX ?? 'c++'
  const path = execFileSync(compiler, [`-print-file-name=${library}`], { encoding: 'utf8' }).trim()
  if (path === library) throw new Error(`${compiler} has no ${library}`)
  console.log(`building the addon for ${sanitizer}; this takes minutes the first time`)
  cmake('--preset', sanitizer)
  cmake(
    '--build',
    `build/${sanitizer}`,
    '--target',
    'polylora',
    '--parallel',
    process.env.CMAKE_BUILD_PARALLEL_LEVEL ?? '2',
  )
  // Where the addon's loader looks.
  const folder = join(root, 'build', sanitizer)
  mkdirSync(join(folder, 'build/Release'), { recursive: true })
  // Renamed, not overwritten: another process may run from the older one.
  const addon = join(folder, 'build/Release/polylora.node')
  copyFileSync(join(folder, 'polylora.node'), `${addon}.new`)
  renameSync(`${addon}.new`, addon)
  return { ...process.env, ...options, LD_PRELOAD: path, POLYLORA_PREBUILD: folder }
}

function cmake(...args: string[]): void {
  const { status, stdout, stderr, error } = spawnSync('cmake', args, {
    cwd: root,
    encoding: 'utf8',
  })
  if (status !== 0)
    throw new Error(
      `cmake ${args.join(' ')} failed: ${error?.message ?? `${stdout}${stderr}`.slice(-4000)}`,
    )
}

/**
 * ThreadSanitizer's reports of what the addon itself does, and of crashes. Node is not instrumented, so that of what it
 * does between its own threads much looks like a race, also below a call of the addon's.
 */
export function reportsOf(output: string): string[] {
  const isOurs = (stack: string): boolean => {
    const frames = stack.split('\n').filter((line) => /^\s+#\d/.test(line))
    return frames.find((frame) => !frame.includes('libtsan'))?.includes('polylora.node') ?? false
  }
  return output.split('==================').filter((report) => {
    if (report.includes('DEADLYSIGNAL')) return true
    if (!report.includes('WARNING: ThreadSanitizer')) return false
    const parts = report.split('\n\n')
    // Of an access the rest is where memory and threads come from; of a lock every stack counts.
    const accesses = parts.filter((part) =>
      /^\s*(WARNING.*\n)?\s+.*(read|write) of size/i.test(part),
    )
    return (accesses.length > 0 ? accesses : parts).some(isOurs)
  })
}

/** What a process said besides the reports of ThreadSanitizer, ours or Node's. */
export function withoutReports(output: string): string {
  return output
    .replaceAll(/^=+\nWARNING: ThreadSanitizer.*?\n=+\n/gms, '')
    .replaceAll(/^ThreadSanitizer: reported \d+ warnings\n/gm, '')
}
