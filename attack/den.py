import socket,subprocess,time,json,sys,threading,urllib.request
tok=subprocess.check_output(['./cs','token','{"id":"ann","role":"x"}'],text=True).strip()
for w in ('s','p'):
    url=open(f'd{w}.url').read().strip(); host=url[7:]
    def call(m,p,b=None,t=60):
        r=urllib.request.Request(url+'/api'+p,data=json.dumps(b).encode() if b is not None else None,method=m,headers={'Authorization':'Bearer '+tok,'content-type':'application/json'})
        try: x=urllib.request.urlopen(r,timeout=t); return x.status,x.read()
        except urllib.error.HTTPError as e: return e.code,e.read()
    print(call('POST','/papers',{'id':'p1'})[0], call('DELETE','/papers/p1')[0])
    def count(): 
        n=0;c=''
        while True:
            s,t=call('GET','/audit?model=Paper&limit=1000'+(f'&cursor={c}' if c else '')); d=json.loads(t); n+=sum(e['operation']=='denied' for e in d['items']); c=d['next']
            if not c: return n
    b=count()
    for delay in (0,0.0005,0.002):
        for i in range(100):
            s=socket.create_connection(host.split(':')); s.setsockopt(socket.IPPROTO_TCP,socket.TCP_NODELAY,1)
            s.sendall(f'DELETE /api/papers/p1 HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {tok}\r\n\r\n'.encode()); time.sleep(delay); s.close()
        time.sleep(1); a=count(); print(w,'delay',delay,'aborted 100, recorded',a-b); b=a
    s,t=call('POST','/papers/batch',{'items':[{'op':'delete','id':'p1'}]*30}); print(s,t[:120]); print('batch recorded',count()-b)
