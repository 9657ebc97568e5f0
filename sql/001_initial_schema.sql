-- Initial database schema migration
-- Generated: 2025-01-11
-- Description: Create all Hyperpage tables with PostgreSQL syntax

-- Create tables
CREATE TABLE IF NOT EXISTS public.jobs (
  id TEXT PRIMARY KEY,
  type TEXT NOT NULL,
  name TEXT NOT NULL,
  priority INTEGER NOT NULL,
  status TEXT NOT NULL,
  tool TEXT,
  endpoint TEXT,
  payload JSONB NOT NULL,
  result JSONB,
  created_at TIMESTAMPTZ NOT NULL,
  updated_at TIMESTAMPTZ NOT NULL,
  started_at TIMESTAMPTZ,
  completed_at TIMESTAMPTZ,
  retry_count INTEGER DEFAULT 0 NOT NULL,
  persisted_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
  recovery_attempts INTEGER DEFAULT 0 NOT NULL
);

CREATE TABLE IF NOT EXISTS public.job_history (
  id SERIAL PRIMARY KEY,
  job_id TEXT NOT NULL REFERENCES public.jobs(id),
  attempt INTEGER NOT NULL,
  status TEXT NOT NULL,
  started_at TIMESTAMPTZ NOT NULL,
  completed_at TIMESTAMPTZ,
  duration_ms INTEGER,
  error_message TEXT
);

CREATE TABLE IF NOT EXISTS public.rate_limits (
  id TEXT PRIMARY KEY,
  platform TEXT NOT NULL,
  limit_remaining INTEGER,
  limit_total INTEGER,
  reset_time TIMESTAMPTZ,
  last_updated TIMESTAMPTZ NOT NULL,
  created_at TIMESTAMPTZ NOT NULL DEFAULT NOW()
);

CREATE TABLE IF NOT EXISTS public.tool_configs (
  tool_name TEXT PRIMARY KEY,
  enabled BOOLEAN DEFAULT true NOT NULL,
  config JSONB,
  refresh_interval INTEGER,
  notifications BOOLEAN DEFAULT true NOT NULL,
  updated_at TIMESTAMPTZ NOT NULL DEFAULT NOW()
);

CREATE TABLE IF NOT EXISTS public.app_state (
  key TEXT PRIMARY KEY,
  value TEXT,
  updated_at TIMESTAMPTZ NOT NULL DEFAULT NOW()
);

CREATE TABLE IF NOT EXISTS public.users (
  id TEXT PRIMARY KEY,
  provider TEXT NOT NULL,
  provider_user_id TEXT NOT NULL,
  email TEXT,
  username TEXT,
  display_name TEXT,
  avatar_url TEXT,
  created_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
  updated_at TIMESTAMPTZ NOT NULL DEFAULT NOW()
);

CREATE TABLE IF NOT EXISTS public.oauth_tokens (
  id SERIAL PRIMARY KEY,
  user_id TEXT NOT NULL,
  tool_name TEXT NOT NULL,
  access_token TEXT NOT NULL,
  refresh_token TEXT,
  token_type TEXT DEFAULT 'Bearer' NOT NULL,
  expires_at TIMESTAMPTZ,
  refresh_expires_at TIMESTAMPTZ,
  scopes TEXT,
  metadata JSONB,
  iv_access TEXT NOT NULL,
  iv_refresh TEXT,
  created_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
  updated_at TIMESTAMPTZ NOT NULL DEFAULT NOW()
);

CREATE TABLE IF NOT EXISTS public.user_sessions (
  session_id TEXT PRIMARY KEY,
  user_id TEXT NOT NULL,
  provider TEXT NOT NULL,
  created_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
  last_activity TIMESTAMPTZ NOT NULL DEFAULT NOW()
);

-- Create indexes
CREATE INDEX IF NOT EXISTS idx_jobs_status ON public.jobs (status);
CREATE INDEX IF NOT EXISTS idx_jobs_created_at ON public.jobs (created_at);
CREATE INDEX IF NOT EXISTS idx_jobs_tool ON public.jobs (tool);

CREATE INDEX IF NOT EXISTS idx_job_history_job_id ON public.job_history (job_id);
CREATE INDEX IF NOT EXISTS idx_job_history_status ON public.job_history (status);

CREATE INDEX IF NOT EXISTS idx_rate_limits_platform ON public.rate_limits (platform);

CREATE INDEX IF NOT EXISTS idx_users_provider ON public.users (provider);
CREATE INDEX IF NOT EXISTS idx_users_email ON public.users (email);

CREATE INDEX IF NOT EXISTS idx_oauth_tokens_user_id ON public.oauth_tokens (user_id);
CREATE INDEX IF NOT EXISTS idx_oauth_tokens_tool_name ON public.oauth_tokens (tool_name);

CREATE INDEX IF NOT EXISTS idx_user_sessions_user_id ON public.user_sessions (user_id);
CREATE INDEX IF NOT EXISTS idx_user_sessions_provider ON public.user_sessions (provider);

-- Insert initial data
INSERT INTO public.app_state (key, value) VALUES
  ('version', '1.0.0'),
  ('migration_version', '001')
ON CONFLICT (key) DO NOTHING;
