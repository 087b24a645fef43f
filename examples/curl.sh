#!/usr/bin/env bash
# Every request of the API as a curl line: KEY=… examples/curl.sh [URL], with the master key.
set -euo pipefail
URL=${1:-http://127.0.0.1:5000}
AUTH="Authorization: ${KEY:?set KEY to your master key}"

curl -s "$URL/health"
curl -s "$URL/healthz"
curl -s "$URL/readyz"
curl -s "$URL/metrics" -H "$AUTH" | sed -n 1,3p
curl -s "$URL/auth" -H "$AUTH"
curl -s "$URL/auth/me" -H "$AUTH"
curl -s "$URL/status" -H "$AUTH"

curl -s "$URL/answer" -H "$AUTH" -d '{"prompt": "My name is Ana.", "session_id": 1}'
curl -s "$URL/answer" -H "$AUTH" -d '{"prompt": "What is my name?", "session_id": 1}'
curl -sN "$URL/answer" -H "$AUTH" -d '{"prompt": "Count to 9.", "session_id": 1, "stream": true}'
curl -s "$URL/answer" -H "$AUTH"
curl -s "$URL/answer/1" -H "$AUTH"
curl -s "$URL/answer/1/prompt?prompt=Hello" -H "$AUTH"
curl -s "$URL/sessions?q=Ana" -H "$AUTH"
curl -s -X POST "$URL/answer/1/stop" -H "$AUTH"
curl -s "$URL/answer" -H "$AUTH" -d '{"prompt": "Hello", "model": "Pirate", "system_prompt": "Be kind.", "memory_k": 0}'
curl -s -X PATCH "$URL/answer/1" -H "$AUTH" -d '{"name": "My talk", "pinned": true, "folder": "Talks"}'
curl -s "$URL/answer" -H "$AUTH" -d '{"prompt": "What is my name?", "session_id": 1, "keep": 2}'
curl -s "$URL/answer/1/branch" -H "$AUTH" -d '{"at": 2, "number": 1}'
curl -s -X PATCH "$URL/answer/1/messages/1" -H "$AUTH" -d '{"content": "Hello Ana."}'
curl -s -X DELETE "$URL/answer/1/messages/1" -H "$AUTH"
curl -s "$URL/assistants" -H "$AUTH" -d '{"name": "Poet", "settings": {"system_prompt": "Rhyme."}, "first_words": ["Rain"]}'
ASSISTANT=$(curl -s "$URL/assistants" -H "$AUTH" | sed 's/.*"id":"\([^"]*\)".*/\1/')
curl -s -X PATCH "$URL/assistants/$ASSISTANT" -H "$AUTH" -d '{"readers": "everybody"}'
curl -s -X DELETE "$URL/assistants/$ASSISTANT" -H "$AUTH"
curl -s -X PATCH "$URL/settings" -H "$AUTH" -d '{"new_chat": {"temperature": 0.2}}'
curl -s "$URL/settings" -H "$AUTH"
curl -s "$URL/sessions/export" -H "$AUTH" > sessions-export.json
curl -s "$URL/sessions/import" -H "$AUTH" -d @sessions-export.json
rm sessions-export.json
curl -s -X DELETE "$URL/answer/1" -H "$AUTH"

curl -s "$URL/v1/chat/completions" -H "$AUTH" -d '{"model": "Guide", "messages": [{"role": "user", "content": "Hello"}]}'
curl -s "$URL/v1/completions" -H "$AUTH" -d '{"model": "Guide", "prompt": "Human: Hello\nAI:", "max_tokens": 20}'
curl -s "$URL/v1/embeddings" -H "$AUTH" -d '{"model": "Guide", "input": "Hello", "encoding_format": "base64"}'
curl -s "$URL/v1/models" -H "$AUTH"
curl -s "$URL/v1/models/Guide" -H "$AUTH"
curl -s "$URL/tokenize" -H "$AUTH" -d '{"content": "Hello", "with_pieces": true}'
curl -s "$URL/detokenize" -H "$AUTH" -d '{"tokens": [11, 12]}'

FILE=$(echo "Ana lives in Ulm." | curl -s "$URL/files" -H "$AUTH" -F "file=@-;filename=notes.txt" -F collection=notes)
echo "$FILE"
FILE=$(echo "$FILE" | sed 's/{"id":"\([^"]*\)".*/\1/')
curl -s "$URL/files" -H "$AUTH"
curl -s "$URL/files/$FILE" -H "$AUTH"
curl -s "$URL/files/$FILE/content" -H "$AUTH"
curl -s "$URL/search" -H "$AUTH" -d '{"query": "Where does Ana live?", "k": 1}'
curl -s "$URL/answer" -H "$AUTH" -d '{"prompt": "Where does Ana live?", "collection": "notes", "memory_k": 0}'
curl -s "$URL/collections" -H "$AUTH" -d '{"name": "all"}'
curl -s "$URL/collections" -H "$AUTH"
curl -s "$URL/collections/all/files" -H "$AUTH" -d "{\"files\": [\"$FILE\"]}"
curl -s -X PATCH "$URL/collections/all" -H "$AUTH" -d '{"readers": "everybody"}'
curl -s "$URL/collections/all" -H "$AUTH"
curl -s -X DELETE "$URL/collections/all/files/$FILE" -H "$AUTH"
curl -s -X DELETE "$URL/collections/all" -H "$AUTH"
curl -s -X DELETE "$URL/files/$FILE" -H "$AUTH"
curl -s -X DELETE "$URL/collections/notes" -H "$AUTH"
FILE=$(curl -s "$URL/v1/files" -H "$AUTH" -F file=@examples/client.py -F purpose=user_data | sed 's/{"id":"\([^"]*\)".*/\1/')
curl -s "$URL/v1/files" -H "$AUTH"
curl -s "$URL/v1/files/$FILE" -H "$AUTH"
curl -s "$URL/v1/files/$FILE/content" -H "$AUTH" | sed -n 1p
curl -s -X DELETE "$URL/v1/files/$FILE" -H "$AUTH"

curl -sN "$URL/api/generate" -H "$AUTH" -d '{"prompt": "Hello", "system_prompt": "Be kind."}'
curl -s "$URL/api" -H "$AUTH" -d '{"file_name": "guide.gguf", "inputs": [{"role": "user", "content": "Hello"}]}'
curl -s "$URL/generate" -H "$AUTH" -d '{"job_id": "hello", "content": "Hello"}'
curl -s "$URL/chat_completion" -H "$AUTH" -d '{"job_id": "chat", "messages": [{"role": "user", "content": "Hello"}]}'
curl -s "$URL/jobs" -H "$AUTH" -d '{"job_id": "later", "content": "Count to 9."}'
curl -s "$URL/jobs/later" -H "$AUTH"
curl -s -X DELETE "$URL/jobs/later" -H "$AUTH"
curl -s "$URL/answer" -H "$AUTH" -H "Idempotency-Key: once" -d '{"prompt": "Hello"}'

curl -s "$URL/models" -H "$AUTH"
# Download a model into the models folder; this needs the master key.
# curl -sN "$URL/models/pull" -H "$AUTH" -d '{"source": "Qwen3-4B-Instruct-2507"}'
curl -s "$URL/models/model" -H "$AUTH" -d '{"model": "guide.gguf", "model_config": "Guide"}'
curl -s "$URL/models/unload" -H "$AUTH" -d '{"model": "Guide"}'

MINTED=$(curl -s "$URL/auth/key" -H "$AUTH" -d '{"name": "Bob", "expires": "30d", "limits": {"tokens_per_day": 50000}}')
echo "$MINTED" | sed 's/"key":"[^"]*"/"key":"…"/'
curl -s "$URL/auth/key" -H "$AUTH"
ID=$(echo "$MINTED" | sed 's/.*"id":"\([^"]*\)".*/\1/')
curl -s -X PATCH "$URL/auth/key/$ID" -H "$AUTH" -d '{"limits": {"parallel": 2}}'
curl -s "$URL/auth/key/$ID/rotate" -H "$AUTH" -d '{"grace": "1d"}' | sed 's/"key":"[^"]*"/"key":"…"/'
curl -s "$URL/auth/usage?format=csv" -H "$AUTH"
curl -s -X DELETE "$URL/auth/key/$ID" -H "$AUTH"
