import http.client, json, subprocess, time, os, socket, signal, threading, uuid
BIN='/work/wt-attack/target/debug/cratestack'
PG='postgres://postgres@127.0.0.1:55432/'
def token(claims):
    return subprocess.run([BIN,'token',json.dumps(claims)],capture_output=True,text=True,check=True).stdout.strip()
class Server:
    def __init__(s, port, db, file='/tmp/atk/atk.cstack', *args, apply=True):
        s.port=port
        s.log=open(f'/tmp/atk/log-{port}','w')
        s.p=subprocess.Popen([BIN,'serve',file,'--database',db,*(['--apply'] if apply else []),'--auth','dev','--allow-dev-auth','--addr',f'127.0.0.1:{port}',*args],stdout=s.log,stderr=s.log)
        for _ in range(300):
            try:
                c=http.client.HTTPConnection('127.0.0.1',port,timeout=2);c.request('GET','/readyz');r=c.getresponse();r.read()
                if r.status==200:break
            except OSError: pass
            if s.p.poll() is not None: raise Exception(open(f'/tmp/atk/log-{port}').read())
            time.sleep(.1)
    def stop(s): s.p.terminate(); s.p.wait()
    def kill(s): s.p.kill(); s.p.wait()
def req(port,method,path,body=None,key=None,tok=None,headers=None,timeout=60,raw=None):
    c=http.client.HTTPConnection('127.0.0.1',port,timeout=timeout)
    h={}
    if body is not None: h['Content-Type']='application/merge-patch+json' if method=='PATCH' else 'application/json'
    if key is not None: h['Idempotency-Key']=key
    if tok: h['Authorization']='Bearer '+tok
    h.update(headers or {})
    data=raw if raw is not None else (json.dumps(body) if body is not None else None)
    c.request(method,path if path.startswith('/api') else '/api'+path,data,h)
    r=c.getresponse(); b=r.read(); c.close()
    hs={k.lower():v for k,v in r.getheaders()}
    return r.status,hs,b
KEEP=('content-type','location','etag','content-language','content-location','last-modified','link')
def vis(r):
    return (r[0],{k:v for k,v in r[1].items() if k in KEEP},r[2])
def psql(db,sql):
    r=subprocess.run(['psql',PG+db,'-Atc',sql],capture_output=True,text=True)
    return (r.stdout+r.stderr).strip()
