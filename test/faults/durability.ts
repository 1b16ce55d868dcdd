/** Whether a power cut could take back what a writer has called done: what was synced, and when. */

import { dirname } from 'node:path'

/** What may be lost: locks say nothing to the next process. */
const isVolatile = (path: string) => path.endsWith('/.lock')
/** Names of what is on its way out; that they come back does no harm. */
const isDoomed = (path: string) => /\/\.[^/]+\.removed(\/|$)/.test(path)

/**
 * Follows calls as the shim lists them ("write PATH", "rename TO from FROM"). A file must be synced after its last write,
 * a folder after its last new name, and both before a rename gives them to readers.
 *
 * @returns what is wrong, a sentence each
 */
export function problemsOfOrder(calls: readonly string[]): string[] {
  const problems: string[] = []
  const unsyncedContent = new Set<string>()
  const unsyncedNames = new Set<string>()
  const isBelow = (path: string, folder: string) => path === folder || path.startsWith(`${folder}/`)
  const below = (paths: Set<string>, folder: string) =>
    [...paths].filter((path) => isBelow(path, folder))
  const forget = (folder: string) => {
    for (const paths of [unsyncedContent, unsyncedNames])
      for (const path of below(paths, folder)) paths.delete(path)
  }
  const named = (path: string) => {
    if (!isVolatile(path) && !isDoomed(path)) unsyncedNames.add(dirname(path))
  }
  for (const text of calls) {
    if (text.endsWith(' failed')) continue
    const [call, path, , from] = text.split(' ')
    switch (call) {
      case 'create':
      case 'mkdir':
      case 'link':
        named(path)
        break
      case 'write':
      case 'sendfile':
      case 'truncate':
        if (!isVolatile(path)) unsyncedContent.add(path)
        break
      case 'sync':
        unsyncedContent.delete(path)
        unsyncedNames.delete(path)
        break
      case 'unlink':
      case 'rmdir':
        forget(path)
        break
      case 'rename':
      case 'exchange':
        if (!isDoomed(path))
          for (const paths of [unsyncedContent, unsyncedNames])
            for (const unsynced of below(paths, from))
              problems.push(`${from} was renamed before ${unsynced} was synced`)
        forget(from)
        named(path)
        break
    }
  }
  for (const path of unsyncedContent) problems.push(`what was written to ${path} was never synced`)
  for (const path of unsyncedNames) problems.push(`the names in ${path} were never synced`)
  return problems
}
